"""Procedures as data: the shipped tables, a lab's own, and what people are told when a table or a file is wrong."""

from __future__ import annotations

import pickle
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ingestd.errors import Reject, RejectCode, UsageError
from ingestd.manifest.row import PARAMETER_FIELDS
from ingestd.raw.header import parse_header
from ingestd.raw.packaged import packaged_file
from ingestd.raw.paste_table import paste_table
from ingestd.raw.procedures import Registry

REGISTRY = Registry.load()
SHIPPED = {
    *("IV", "IVg", "ITS", "IVgT", "It2", "ITt", "ItVg", "ItWl"),
    *("LaserCalibration", "Pt", "Pwl", "Tt", "Vt", "VVg"),
}
MINIMAL = {
    "classes": ["Hall"],
    "columns": {"b_t": {"accepts": ["B (T)"], "required": True}},
    "summary": "Hall {chip_name}",
    "chip": "optional",
    "light": "none",
}


def refused(overrides: dict[str, object]) -> UsageError:
    """Return the error that loading the packaged procedures with `overrides` raises."""
    with pytest.raises(UsageError) as raised:
        Registry.load(overrides)
    return raised.value


def test_the_shipped_procedures_are_the_labs() -> None:
    """All fourteen procedures of the lab are packaged, and no other."""
    assert set(REGISTRY.procedures) == SHIPPED


def test_every_real_file_finds_its_procedure_and_all_its_columns(lab: Path) -> None:
    """No column of a real measurement is unknown, so none of them fills `extra`."""
    for file in (lab / "01_raw").rglob("*.csv"):
        header = parse_header(file.read_bytes())
        procedure = REGISTRY.procedure_for(header.procedure_class, header.columns)
        assert len(procedure.match_columns(header.columns)) == len(header.columns), file


@pytest.mark.parametrize("procedure_class", ["It", "ITS", "laser_setup.procedures.It.It"])
def test_only_the_last_part_of_the_class_counts(procedure_class: str) -> None:
    """`It` and `ITS`, from whatever module, are the procedure ITS."""
    assert REGISTRY.procedure_for(procedure_class).name == "ITS"


def test_every_shipped_procedure_keeps_the_gate_the_laser_and_the_chip() -> None:
    """A manifest field that a shipped summary prints is filled by a header parameter of that procedure."""
    for procedure in REGISTRY.procedures.values():
        printed = set(re.findall(r"\{(\w+)\}", procedure.summary)) & set(PARAMETER_FIELDS)
        assert printed <= {parameter.field for parameter in procedure.parameters.values()}, procedure.name
        chip = {"chip_group", "chip_number"} <= {parameter.field for parameter in procedure.parameters.values()}
        assert chip == (procedure.chip != "none"), procedure.name


def test_an_unknown_procedure_prints_a_table_that_works() -> None:
    """The table printed for an unknown class makes the same file's procedure known once it is pasted."""
    written = ["B (T)", "Rxy (Ohm)", "Rxy (kOhm)", "µ (MW)", "B (mT)"]
    with pytest.raises(Reject) as raised:
        REGISTRY.procedure_for("lab.procedures.HallBar", written)
    assert raised.value.code == RejectCode.UNKNOWN_PROCEDURE
    assert raised.value.found == "lab.procedures.HallBar"
    assert raised.value.next_step.startswith(
        "add this table to the config file (`ingestd config show` names it; if there is none, "
        "`ingestd config generate > config.toml` makes one) and adjust it; restart the service if one runs "
        "(`sudo systemctl restart ingestd`), then `ingestd rejects retry --all`:\n\n[procedures.HallBar]\n"
    )
    table = raised.value.next_step[raised.value.next_step.index("[procedures.HallBar]") :]
    procedure = Registry.load(tomllib.loads(table)["procedures"]).procedure_for("lab.procedures.HallBar")
    matched = procedure.match_columns(written)
    assert matched[0] == "b_t"
    assert matched[1] == "rxy_ohm"
    assert len(set(matched.values())) == len(written)


def test_the_printed_table_takes_what_the_header_has() -> None:
    """Parameters that other procedures know fill their fields; the laser is left out where the header has none."""
    written, labels = ["t (s)", "Vxy (V)"], ["Chip group name", "Chip number", "VG", "VDS", "Magnet"]
    with pytest.raises(Reject) as raised:
        REGISTRY.procedure_for("lab.Hall", written, labels)
    table = raised.value.next_step[raised.value.next_step.index("[procedures.Hall]") :]
    procedure = Registry.load(tomllib.loads(table)["procedures"]).procedures["Hall"]
    fields = {label: (one.field, one.unit) for label, one in procedure.parameters.items()}
    assert fields["VG"] == ("vg_v", "V")
    assert fields["VDS"] == ("vds_v", "V")
    assert "Magnet" not in fields
    assert fields["Chip group name"] == ("chip_group", None)
    assert not any(field.startswith("laser") for field, _ in fields.values())
    assert (procedure.light, procedure.duration) == ("none", "t_s")
    assert procedure.summary == "Hall {chip_name}  VG={vg_v} V  VDS={vds_v} V  #{file_idx}"
    with_laser = REGISTRY.known_parameters([*labels, "Laser voltage"])
    assert 'light = "laser"' in paste_table("Hall", written, taken=(), parameters=with_laser)


def test_the_printed_table_says_how_a_column_holds_text() -> None:
    """All columns are taken as numbers; what the comment says to add to one makes it text."""
    table = paste_table("Hall", ["t (s)", "Note"], taken=(), parameters={})
    assert 'a column of text needs dtype = "string" after its accepts' in table
    as_text = table.replace('accepts = ["Note"]', 'accepts = ["Note"], dtype = "string"')
    columns = Registry.load(tomllib.loads(as_text)["procedures"]).procedures["Hall"].columns
    assert {name: column.dtype for name, column in columns.items()} == {"t_s": "float64", "note": "string"}


def test_a_misspelled_class_is_told_the_nearest() -> None:
    """`IVG` is answered with the class that looks like it."""
    with pytest.raises(Reject, match=r"did you mean 'IVg'\?"):
        REGISTRY.procedure_for("lab.IVG")


@pytest.mark.parametrize(("written", "name"), [("IT", "ITS"), ("IVgg", "IVg"), ("Holl", "Hall_2")])
def test_a_class_that_is_nearly_known_may_be_that_procedure(written: str, name: str) -> None:
    """Of the two tables printed each works by itself: the first has the procedure that is near accept it too."""
    lab = {"Hall_2": MINIMAL}
    registry = Registry.load(lab)
    with pytest.raises(Reject) as raised:
        registry.procedure_for(f"lab.{written}", ["t (s)", "I (A)"])
    step, near, own = re.split(r"^#.*\n", raised.value.next_step, flags=re.MULTILINE)
    assert step.startswith("add one of these tables to the config file (")
    assert f"# If it is procedure {name} under another name:\n[procedures." in raised.value.next_step
    tables = tomllib.loads(near)["procedures"]
    assert [*tables] == [name]
    accepting = Registry.load({key: {**lab.get(key, {}), **table} for key, table in (lab | tables).items()})
    assert accepting.procedure_for(written) is accepting.procedures[name]
    assert accepting.procedures[name].columns == registry.procedures[name].columns
    assert set(accepting.procedures[name].classes) == {*registry.procedures[name].classes, written}
    assert Registry.load(lab | tomllib.loads(own)["procedures"]).procedure_for(written).name not in registry.procedures


LABELS = st.text(alphabet=st.sampled_from('aAvVmMsgµμΩ°C1 ()[]/_"\\\n\x7f\u202e\ud800é,λ'), max_size=12) | st.text(
    max_size=8
)


KNOWN_LABELS = sorted({label for procedure in REGISTRY.procedures.values() for label in procedure.parameters})


@given(
    procedure_class=st.text(max_size=20),
    written=st.lists(LABELS, max_size=6),
    labels=st.lists(st.sampled_from(KNOWN_LABELS) | LABELS, max_size=9),
)
@example(procedure_class="IVé", written=["(mV)", "(MV)"], labels=[])
@example(procedure_class='"]\n[x', written=["extra", "proc", "µ", "μ"], labels=KNOWN_LABELS)
def test_any_printed_table_is_valid(procedure_class: str, written: list[str], labels: list[str]) -> None:
    """Whatever class and labels a file holds, the printed table parses, loads, and accepts every printable label."""
    known = REGISTRY.known_parameters(labels)
    tables = tomllib.loads(paste_table(procedure_class, written, taken=REGISTRY.procedures, parameters=known))[
        "procedures"
    ]
    (name,) = tables
    assume(tables[name]["classes"][0] not in REGISTRY._by_class)
    procedure = Registry.load(tables).procedures[name]
    distinct = {" ".join(label.split()): label for label in written if label.isprintable() and label.strip()}
    for label in distinct.values():
        assert procedure.match_columns([label])


def test_a_lab_adds_a_procedure_without_code() -> None:
    """A new table in the config is a new procedure, beside the shipped ones."""
    registry = Registry.load({"Hall": MINIMAL})
    assert registry.procedure_for("lab.Hall").match_columns(["B (T)"]) == {0: "b_t"}
    assert set(registry.procedures) == SHIPPED | {"Hall"}


def test_a_lab_overrides_single_keys() -> None:
    """An override replaces the named key alone; every other key and the column order stay as shipped."""
    registry = Registry.load({"IVg": {"columns": {"i_a": {"accepts": ["Ids (A)"]}}, "chip": "optional"}})
    changed, shipped = registry.procedures["IVg"], REGISTRY.procedures["IVg"]
    assert changed.columns["i_a"].accepts == ("Ids (A)",)
    assert changed.columns["i_a"].required
    assert list(changed.columns) == list(shipped.columns)
    assert changed.model_copy(update={"columns": shipped.columns, "chip": "required"}) == shipped


def test_a_procedures_own_keys_outrank_its_groups() -> None:
    """A lab may respell a column or relabel a parameter that the procedure takes from a group."""
    overrides = {
        "columns": {"plate_t_degc": {"accepts": ["Tp (degC)"]}},
        "parameters": {"Laser voltage": {"field": "vg_v", "unit": "V"}},
    }
    changed = Registry.load({"IVg": overrides}).procedures["IVg"]
    assert changed.columns["plate_t_degc"].accepts == ("Tp (degC)",)
    assert changed.parameters["Laser voltage"].field == "vg_v"


def test_overrides_never_change_the_shipped_tables() -> None:
    """Loading with overrides leaves later loads without them as they were."""
    Registry.load({"IVg": {"columns": {"i_a": {"accepts": ["Ids (A)"]}}}})
    assert Registry.load().procedures == REGISTRY.procedures


BROKEN: dict[str, tuple[dict[str, object], str, str, str]] = {
    "misspelled key": ({"IVg": {"sumary": "x"}}, "[procedures.IVg]", "key 'sumary'", "'summary'"),
    "misspelled column key": (
        {"IVg": {"columns": {"i_a": {"acepts": ["x"]}}}},
        "[procedures.IVg.columns.i_a]",
        "key 'acepts'",
        "'accepts'",
    ),
    "misspelled field": (
        {"IVg": {"parameters": {"Gate": {"field": "vg_start", "unit": "V"}}}},
        "[procedures.IVg.parameters.Gate]",
        "key 'field'",
        "'vg_start_v'",
    ),
    "wrong type": (
        {"IVg": {"classes": 3}},
        "[procedures.IVg]",
        "key 'classes'",
        'must be a list, such as ["one", "two"]; found 3',
    ),
    "no table": ({"IVg": 3}, "[procedures.IVg]", "expected a table", "3"),
    "columns no table": ({"IVg": {"columns": 3}}, "[procedures.IVg]", "key 'columns'", "must be a table; found 3"),
    "text for a list": (
        {"IVg": {"columns": {"i_a": {"accepts": "I (A)"}}}},
        "[procedures.IVg.columns.i_a]",
        "key 'accepts'",
        "'I (A)'",
    ),
    "unknown group": ({"IVg": {"uses": ["lazer"]}}, "[procedures.IVg]", "key 'uses'", "'laser'"),
    "group that is a list": ({"IVg": {"uses": [["laser"]]}}, "[procedures.IVg]", "key 'uses'", "['laser']"),
    "group list as text": ({"IVg": {"uses": "laser"}}, "[procedures.IVg]", "key 'uses'", "list"),
    "missing key": ({"Hall": {"classes": ["Hall"]}}, "[procedures.Hall]", "key 'columns'", "is missing"),
    "name as key": ({"IVg": {"name": "x"}}, "[procedures.IVg]", "key 'name'", "table"),
    "name unfit for a folder": (
        {"a/b": MINIMAL},
        '[procedures."a/b"]',
        "key 'name'",
        "letters, digits and _, at most 64, and begins with a letter",
    ),
    "name of a column with a capital": (
        {"IVg": {"columns": {"Vg": {"accepts": ["x"]}}}},
        "[procedures.IVg.columns.Vg]",
        "key 'Vg'",
        "lower-case letters, digits and _",
    ),
    "name of a column with a dash": (
        {"IVg": {"columns": {"vg-v": {"accepts": ["x"]}}}},
        '[procedures.IVg.columns."vg-v"]',
        "key 'vg-v'",
        "lower-case letters, digits and _",
    ),
    "blank spelling": ({"IVg": {"classes": ["IVg", " "]}}, "[procedures.IVg]", "key 'classes'", "is empty"),
    "light of no kind": ({"IVg": {"light": "lamp"}}, "[procedures.IVg]", "key 'light'", "must be 'laser' or 'none'"),
    "empty list": ({"IVg": {"classes": []}}, "[procedures.IVg]", "key 'classes'", "must not be empty"),
    "required as text": (
        {"IVg": {"columns": {"i_a": {"required": "yes"}}}},
        "[procedures.IVg.columns.i_a]",
        "key 'required'",
        "must be true or false",
    ),
    "reserved column": (
        {"IVg": {"columns": {"extra": {"accepts": ["x"]}}}},
        "[procedures.IVg]",
        "columns.extra",
        "reserved for ingestd",
    ),
    "other unit in a spelling": (
        {"IVg": {"columns": {"i_a": {"accepts": ["I (mA)"]}}}},
        "[procedures.IVg]",
        "columns.i_a",
        "not converted",
    ),
    "other unit for a field": (
        {"IVg": {"parameters": {"VDS": {"unit": "mV"}}}},
        "[procedures.IVg.parameters.VDS]",
        "vds_v",
        "'V'",
    ),
    "spelling of two columns": (
        {"IVg": {"columns": {"vg_v": {"accepts": ["I (A)"]}}}},
        "[procedures.IVg]",
        "columns.",
        "'I (A)'",
    ),
    "duration of no column": ({"IVg": {"duration": "t_s"}}, "[procedures.IVg]", "duration", "'t_s'"),
    "class of another": ({"IVg": {"classes": ["It"]}}, "[procedures.ITS]", "key 'classes'", "IVg"),
    "attribute in summary": (
        {"IVg": {"summary": "{proc.__class__}"}},
        "[procedures.IVg]",
        "key 'summary'",
        "known are",
    ),
    "index in summary": ({"IVg": {"summary": "{proc[0]}"}}, "[procedures.IVg]", "key 'summary'", "known are"),
    "format in summary": ({"IVg": {"summary": "{vg_v:.2f}"}}, "[procedures.IVg]", "key 'summary'", "no format"),
    "conversion in summary": ({"IVg": {"summary": "{vg_v!r}"}}, "[procedures.IVg]", "key 'summary'", "no format"),
    "position in summary": ({"IVg": {"summary": "{}"}}, "[procedures.IVg]", "key 'summary'", "known are"),
    "open brace in summary": ({"IVg": {"summary": "{vg_v"}}, "[procedures.IVg]", "key 'summary'", "'}'"),
    "line break in summary": ({"IVg": {"summary": "a\nb"}}, "[procedures.IVg]", "key 'summary'", "line break"),
}


LIBRARY = re.compile(r"Input should|Field required|Value error|valid integer|String should|Tuple should")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_is_named_with_its_key(case: str) -> None:
    """Every mistake in a lab's table is answered with the table, the key and what would be right."""
    overrides, table, key, hint = BROKEN[case]
    error = refused(overrides)
    assert error.place == f"table {table}"
    assert key in error.message
    assert hint in error.message
    assert not LIBRARY.search(error.message), error.message


def test_all_mistakes_are_told_at_once() -> None:
    """An unknown key comes first; the others follow as lines, those of other tables too."""
    table = {**MINIMAL, "light": "lamp", "chips": "none", "columns": {"b_t": {"accepts": [], "required": 1}}}
    error = refused({"IVg": {"lite": "laser"}, "Hall": table, "Diode": {"uses": ["lazer"]}})
    assert (error.place, error.message) == ("table [procedures.IVg]", "key 'lite': no such key; did you mean 'light'?")
    first, *others = error.next_step.splitlines()
    assert first == f"correct it; {packaged_file()} shows every key"
    assert others == [
        "  also wrong: table [procedures.Hall]: key 'chips': no such key; did you mean 'chip'?",
        "  also wrong: table [procedures.Hall.columns.b_t]: key 'accepts': must not be empty; found []",
        "  also wrong: table [procedures.Hall.columns.b_t]: key 'required': must be true or false; found 1",
        "  also wrong: table [procedures.Hall]: key 'light': must be 'laser' or 'none'; found 'lamp'",
        "  also wrong: table [procedures.Diode]: key 'uses': 'lazer' is not a group of columns; did you mean 'laser'?",
    ]


def test_every_class_that_another_procedure_has_is_told_at_once() -> None:
    """A table that takes the classes of two others names both of them."""
    error = refused({"Hall": {**MINIMAL, "classes": ["It", "IVg"]}})
    assert error.message == "key 'classes': the class 'It' already belongs to procedure ITS"
    _, other = error.next_step.splitlines()
    assert other.endswith("[procedures.Hall]: key 'classes': the class 'IVg' already belongs to procedure IVg")


def test_a_registry_travels_to_a_worker() -> None:
    """A pickled registry finds the same procedures and schemas."""
    assert REGISTRY.procedures["IVg"].arrow_schema
    revived = pickle.loads(pickle.dumps(REGISTRY))
    assert revived.procedures == REGISTRY.procedures
    assert revived.procedure_for("It").arrow_schema.equals(REGISTRY.procedures["ITS"].arrow_schema, check_metadata=True)
