"""Tables 1 to 5, and the paper's beside them."""

TITLES = {
    "table1": "Table 1. Models",
    "table2": "Table 2. Kruskal-Wallis test on Head Impact",
    "table3": "Table 3. Adapted layers",
    "table4": "Table 4. Results on the test part",
    "table5": "Table 5. Parameters",
}
ABOUT = {
    "table4": (
        "Value ± standard error, and below it the paired difference against the original with its confidence "
        "interval. The largest absolute difference of a model stands out."
    ),
}
QUESTIONS = (
    "The test part has few different phrases, so that questions have fewer options than four, or there are none. "
    "Accuracy and AnsProb hold for these questions alone, and are not measured where fewer than two images have one:"
)
ABSENT = {
    "table2": "No model was scored. Run headimpact score --model {model}.",
    "table3": "No layers were selected. Run headimpact select --model {model} --setup top-4.",
    "table4": "No setup was evaluated. Run headimpact evaluate --model {model} --setup original.",
    "table5": "No adapter was evaluated. headimpact advise --model {model} tells which setup to begin with.",
}
"""What is said in the place of a table that holds no value."""

PAPER = "The paper's {table}: other models, no comparison"
ABOUT_PAPER = {
    "table1": "The paper's parameters are the total of its table 5, less the trainable ones.",
    "table2": (
        "Each of the paper's models stands with the tests that are its own by their degrees of freedom, which follow "
        "from statistic and p-value; the last column says under which name the paper prints them."
    ),
    "table4": "The paper's values are as printed, with standard errors where it gives them.",
}
LOADED = "was loaded from {source}"
SOURCE_NOT_KNOWN = "is of a source that is not known (no adapter was trained)"
OTHER_MODEL = "{model} {loaded}; the paper's {name} is {checkpoint}."
DATASETS = "Measured here on the dataset {datasets}; the paper measured on one of its own, of MS COCO images."
DATASET_NOT_KNOWN = "The dataset here is not known; the paper measured on one of its own, of MS COCO images."

CONTRADICTIONS = "Found from the printed numbers alone. Nothing here depends on the models that were run."
