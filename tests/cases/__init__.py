"""The table of networks: one idea each, small enough to read, and what dither must say about it.

A file is a family, and each of its cases is the smallest network that has the trouble. ``removable`` are the channel
spaces that can lose channels, by the name of the layer that writes them, with their size. ``whole`` are those that
cannot, with a word of the reason. Whatever is removable must also be *exact*: half of all channels are dropped at
random, and the shrunk network must compute what the masked one does, to rounding in float64.

To add a case, write the network that went wrong for you, as small as it goes, and what should have been found.
"""

from tests.cases._case import IMAGE as IMAGE
from tests.cases._case import OUTPUT as OUTPUT
from tests.cases._case import Case as Case
from tests.cases._case import Net as Net
from tests.cases._case import conv as conv
from tests.cases._case import head as head
from tests.cases.attention import ATTENTION as ATTENTION
from tests.cases.chains import CHAINS as CHAINS
from tests.cases.formats import FORMATS as FORMATS
from tests.cases.groups import GROUPS as GROUPS
from tests.cases.joins import JOINS as JOINS
from tests.cases.layers import LAYERS as LAYERS
from tests.cases.mixers import MIXERS as MIXERS
from tests.cases.norms import NORMS as NORMS
from tests.cases.scales import SCALES as SCALES
from tests.cases.sequences import SEQUENCES as SEQUENCES
from tests.cases.sharing import SHARING as SHARING
from tests.cases.silent import SILENT as SILENT
from tests.cases.splits import SPLITS as SPLITS
from tests.cases.weights import WEIGHTS as WEIGHTS
from tests.cases.widths import WIDTHS as WIDTHS

CASES = [
    *CHAINS,
    *JOINS,
    *SPLITS,
    *GROUPS,
    *SHARING,
    *SCALES,
    *NORMS,
    *ATTENTION,
    *SEQUENCES,
    *MIXERS,
    *SILENT,
    *LAYERS,
    *FORMATS,
    *WIDTHS,
]
