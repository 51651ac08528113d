from cnnkit.analysis import macs as macs
from cnnkit.analysis import receptive_field as receptive_field
