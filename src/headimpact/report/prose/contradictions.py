"""The contradictions that are looked for in the paper's tables, and what is said where there are none."""

COLUMNS_TITLE = "Table 2: columns under the wrong name"
COLUMNS = (
    "A Kruskal-Wallis statistic and its p-value fix the degrees of freedom, which are the number of layers less "
    "one and the number of heads less one. By them {verdict}."
)
PERMUTED = "the columns are permuted: {columns}"
PERMUTED_COLUMN = "{name} holds those of {model}"
NOT_PERMUTED = "every column is that of its model"

EQUAL_TITLE = "Table 4: fine-tuned models equal to the original"
EQUAL = (
    "{equal} of the {cells} cells of fine-tuned models equal the original in every printed digit. In {whole} of the "
    "{adapted} setups all of them do: {setups}. A trained adapter moves the numbers at least a little: these look as "
    "if no adapter had been at work."
)
NOT_EQUAL = "No cell of a fine-tuned model equals that of its original in every digit."

FULL_TITLE = "Table 4: full moves less than fewer layers"
FULL = (
    "Full trains every layer, and so those of every other setup, yet it moved less than {setups}. "
    "That is not impossible (it may have been stopped sooner), but the paper gives no reason."
)
FULL_SETUP = "{setup} in {count} of {cells} cells"
FULL_MOST = "Full never moved less than a setup that trains some of its layers."

SHARES_TITLE = "Table 5: shares that are not those of the counts"
SHARES = "The printed shares of {models} are not those of the printed counts."
SHARES_RIGHT = "The printed shares are those of the printed counts."
