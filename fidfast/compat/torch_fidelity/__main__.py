"""``python -m fidfast.compat.torch_fidelity``: the command ``fidelity``."""

import sys

from fidfast.compat.torch_fidelity.fidelity import main

sys.exit(main())
