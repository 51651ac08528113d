"""Several networks, or several views of a picture, as one answer."""

from cnnkit.ensembles.balanced import Subset as Subset
from cnnkit.ensembles.balanced import balanced_subsets as balanced_subsets
from cnnkit.ensembles.fusion import fused as fused
from cnnkit.ensembles.graph import averaged as averaged
from cnnkit.ensembles.graph import features as features
from cnnkit.ensembles.graph import features_with as features_with
from cnnkit.ensembles.graph import stacked as stacked
from cnnkit.ensembles.graph import voting as voting
from cnnkit.ensembles.snapshots import Snapshots as Snapshots
from cnnkit.ensembles.stacking import Stacking as Stacking
from cnnkit.ensembles.views import View as View
from cnnkit.ensembles.views import views as views
from cnnkit.ensembles.views import with_views as with_views
