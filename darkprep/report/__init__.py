"""Pages to look at: charts, the page of a run, the page of an evaluation."""
