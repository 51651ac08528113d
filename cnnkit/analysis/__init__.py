from cnnkit.analysis import macs as macs
