"""`report.html` and `MODEL_CARD.md`: how good a model and its files are, and for what.

The report is one file that works offline. The card is Markdown, with the front matter that model
hubs read; what only people know is marked `TODO` in it.
"""

from apps.report.content import facts as facts
from apps.report.content import of_run as of_run
from apps.report.rendering import markdown as markdown
from apps.report.rendering import write_card as write_card
from apps.report.rendering import write_page as write_page
from apps.report.rendering import write_report as write_report
