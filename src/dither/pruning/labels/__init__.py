"""Which channels of a network belong together: the network is run once, on labels."""

from ._constants import Constant as Constant
from ._run import analyse as analyse
from ._spaces import Analysis as Analysis
from ._spaces import Space as Space
from ._tags import Slot as Slot
