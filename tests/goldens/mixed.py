def bf16_run(*a): return {}
def describe(run): return ""
