"""From numbers and tensors to what people read: contact sheets, a table in the terminal, one page of HTML."""

from ._html import write_report as write_report
from ._maps import display as display
from ._maps import error_range as error_range
from ._records import write_csv as write_csv
from ._records import write_json as write_json
from ._sheet import sheet as sheet
from ._table import result_table as result_table
from ._text import how_wrong as how_wrong
from ._text import judge_name as judge_name
from ._text import summary as summary
from ._text import teacher_error as teacher_error
from ._text import teacher_line as teacher_line
from ._text import verdict as verdict
