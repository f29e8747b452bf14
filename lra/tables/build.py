"""All table files by name: `make tables` writes them, the audit compares them."""

from collections.abc import Sequence

from lra.records.benchmark import Bench
from lra.records.published import Published
from lra.records.record import Record
from lra.tables.aggregate import UNFINISHED, aggregate, is_of_lra
from lra.tables.agreement import agreement_table
from lra.tables.comparison import scale_table, variants_table
from lra.tables.csv_export import agreement_csv, efficiency_csv, other_csv, paper_csv, scale_csv
from lra.tables.efficiency import EFFICIENCY_TABLES, efficiency_table
from lra.tables.formats import latex, markdown
from lra.tables.other_tasks import OTHER_TABLES, further_tables, other_table
from lra.tables.paper import PAPER_TABLES, paper_table


def scales_of(records: Sequence[Record]) -> list[str]:
    """The scales that have records, largest first: paper, lite, mini, then the others by name."""
    found = {r.scale for r in records}
    return list(dict.fromkeys([*(s for s in ("paper", "lite", "mini") if s in found), *sorted(found)]))


def main_scale(records: Sequence[Record]) -> str:
    """The scale to show by default: the largest with an ended run of an unchanged recipe on a task of LRA.

    Variants and unfinished runs count only if there is nothing else.
    """
    unchanged = [r for r in records if not r.variant and is_of_lra(r)]
    ended = [r for r in unchanged if r.status not in UNFINISHED]
    return next(iter(scales_of(ended) or scales_of(unchanged) or scales_of(records)), "paper")


def table_files(records: Sequence[Record], published: Published, benches: Sequence[Bench]) -> dict[str, str]:
    """File name -> content: a set for each scale with records and for scale paper, and the papers' own tables."""
    scales = list(dict.fromkeys(["paper", *scales_of(records)]))
    made = [scale_table(records, published, scale) for scale in scales]
    made += filter(None, (variants_table(aggregate(records, published, scale)) for scale in scales))
    made += [paper_table(name, records, published) for name in PAPER_TABLES]
    made += [efficiency_table(name, benches, published) for name in EFFICIENCY_TABLES]
    made += [other_table(name, records, published) for name in OTHER_TABLES]
    further = {name: table for scale in scales for name, table in further_tables(records, scale).items()}
    made += [other_table(name, records, published, table) for name, table in further.items()]
    made.append(agreement_table(records, published, scales))
    files = {f"{table.name}.md": markdown(table) for table in made}
    files |= {f"{table.name}.tex": latex(table) for table in made}
    files |= {f"{name}.csv": paper_csv(name, records, published) for name in PAPER_TABLES}
    files |= {f"{name}.csv": efficiency_csv(name, benches, published) for name in EFFICIENCY_TABLES}
    files |= {f"{name}.csv": other_csv(name, records, published) for name in OTHER_TABLES}
    files["agreement.csv"] = agreement_csv(records, published, scales)
    return files | {f"{scale}.csv": scale_csv(records, published, scale) for scale in scales}
