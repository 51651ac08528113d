from apps.rest.application import application as application
from apps.rest.served import Limits as Limits
from apps.rest.served import Served as Served
