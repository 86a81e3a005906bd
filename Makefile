# For those who have make; everything is in ./dev, which needs only sh.
.PHONY: demo test lint fmt conformance interop fuzz bench docs build
demo test lint fmt conformance interop fuzz bench docs build:
	@./dev $@
