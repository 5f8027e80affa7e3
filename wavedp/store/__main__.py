"""python -m wavedp.store pack|unpack FILE --store DIR: see wavedp.store.carry."""

import sys

from wavedp.store.carry import main

sys.exit(main())
