from tests.capacity.conftest import anchored_case as anchored_case
from tests.capacity.conftest import paper_case as paper_case
from tests.capacity.conftest import paper_lengths as paper_lengths
