"""Where the numbers come from, and what is not there."""

RUNS = (
    "Each link searches MLflow for the run whose numbers stand in this report. Start mlflow ui in the project; if your "
    "store is elsewhere, give its address and the number in the address of its experiment. MLflow shows a run of the "
    "whole grid below its parent: open that with its plus sign. The text below a link can also be pasted into the "
    "search field of the experiment's runs."
)
NO_RUNS = "No step has written a number yet. Run headimpact score --model {model}."
MISSING = "{files}: {why}. Run {command}."
NOTHING_MISSING = "Nothing."
