from cnnkit.analysis import lint as lint
from cnnkit.analysis import macs as macs
from cnnkit.analysis import monitor as monitor
from cnnkit.analysis import receptive_field as receptive_field
from cnnkit.analysis import side_by_side as side_by_side
