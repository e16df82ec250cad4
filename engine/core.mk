## the engine thread: scheduler, sampling, text
