"""What a run looks like: figures of its metrics, films of its episodes, and the report that holds them."""
