## the engine thread: scheduler, sampling, text
libengine_a_SOURCES += %D%/engine.c %D%/sched.c %D%/sched.h %D%/sched_draft.c %D%/draft.c %D%/draft.h \
	%D%/sched_finish.c %D%/sched_pages.c %D%/sched_slice.c %D%/sched_internal.h %D%/job.c %D%/job.h \
	%D%/queue.c %D%/queue.h %D%/fair.c %D%/fair.h %D%/budget.c %D%/budget.h \
	%D%/sample.h %D%/sample_list.c %D%/sample_dry.c %D%/sample_mirostat.c %D%/sample_repeat.c \
	%D%/sample_sigma.c %D%/sample_typical.c %D%/sample_xtc.c \
	%D%/sampler.c %D%/sampler.h %D%/textout.c %D%/textout.h %D%/events.c %D%/events.h \
	%D%/engine_metrics.c %D%/engine_metrics.h %D%/metrics.def %D%/cache.c %D%/cache.h %D%/identity.c %D%/identity.h
