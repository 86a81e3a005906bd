# For those who have make; everything is in ./dev, which needs only sh.
.PHONY: bench-baseline demo test lint fmt conformance interop doctor-exam fuzz bench bench-guard bench-flood bench-ipvs bench-scale bench-directors bench-failover bench-ecmp bench-web kernels docs web build wheel deb package-test shell test-all undo
demo test lint fmt conformance interop doctor-exam fuzz bench-guard bench-ipvs bench-scale bench-directors bench-failover bench-ecmp bench-web kernels docs web build wheel deb package-test shell test-all undo:
	@./dev $@
bench bench-flood:
	@./dev $@ $(if $(KATRAN),--katran "$(KATRAN)")
bench-baseline:
	@./dev bench-guard --write
