"""llama.cpp, through llama-cpp-python's C interface, as an engine beside ours."""
