"""The command line: words become validated studies, one or a sweep of them."""
