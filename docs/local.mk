dist_doc_DATA = %D%/design.md %D%/api.md %D%/performance.md %D%/adding.md %D%/cache.md %D%/layers.md %D%/templates.md \
	%D%/fuzzing.md %D%/convert.md %D%/access.md %D%/structured.md %D%/metrics.md etc/latentd.keys.example
