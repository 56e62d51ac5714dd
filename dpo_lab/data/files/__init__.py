"""From files to rows: JSON Lines, JSON, CSV, TSV and Parquet files, and data sets of the Hugging Face hub."""
