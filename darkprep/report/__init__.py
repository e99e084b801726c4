"""HTML pages: charts, the page of a run, the page of an evaluation."""
