from tests.bus.conftest import connect as connect
from tests.bus.conftest import server as server
