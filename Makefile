# For those who have make; everything is in ./dev, which needs only sh.
.PHONY: demo test lint fmt conformance interop fuzz bench bench-ipvs bench-scale docs build
demo test lint fmt conformance interop fuzz bench bench-ipvs bench-scale docs build:
	@./dev $@
