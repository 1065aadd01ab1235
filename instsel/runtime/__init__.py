"""Everything that wraps Ray: session, actor pools, training groups, jobs, observability."""
