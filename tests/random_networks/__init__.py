"""Random networks: programs of operators that hypothesis draws, and cuts down to the smallest one that goes wrong.

A network is a list of steps on feature maps of one spatial size. Each step reads some of the maps that are there and
appends one. No step writes a number of channels into its code, so that every network must be exact, not just refused.
A network that fails prints itself as the expression that makes it again.
"""

from tests.random_networks._program import Program as Program
from tests.random_networks._program import Step as Step
from tests.random_networks._program import programs as programs
