"""The campaign: what the project promises of its results, tried against kills, full disks, servers that are down, and
files and requests that are damaged.

    make campaign [CAMPAIGN_MINUTES=14] [CAMPAIGN_SEED=1]

Works on copies of the project with few images, in a temporary folder. What it found goes to
``benchmarks/campaign.json``; ``headimpact write`` writes the tables of docs/reliability.md from it.
"""
