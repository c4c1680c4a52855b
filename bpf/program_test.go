package bpf

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// TestNamesMatchTheHeader holds the Go names and constants against the C enums, by the object file's BTF.
func TestNamesMatchTheHeader(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	enum := func(name string) []btf.EnumValue {
		t.Helper()
		var e *btf.Enum
		if err := spec.Types.TypeByName(name, &e); err != nil {
			t.Fatal(err)
		}
		return e.Values
	}
	reasons := enum("reason")
	if len(reasons) != Reasons+1 || reasons[Reasons].Name != "REASONS" {
		t.Errorf("enum reason has %d values, want %d and REASONS last", len(reasons), Reasons)
	}
	for _, v := range reasons[:Reasons] {
		if got, want := Reason(v.Value).String(), strings.ToLower(strings.TrimPrefix(v.Name, "REASON_")); got != want {
			t.Errorf("reason %d is %q, want %q", v.Value, got, want)
		}
		if Reason(v.Value).Drops() != strings.HasPrefix(v.Name, "REASON_DROP_") {
			t.Errorf("%s.Drops() contradicts its name", v.Name)
		}
	}
	families := enum("family")
	if len(families) != Families+1 || families[Families].Name != "FAMILIES" {
		t.Errorf("enum family has %d values, want %d and FAMILIES last", len(families), Families)
	}
	for _, v := range families[:Families] {
		if got, want := Family(v.Value).String(), strings.ToLower(strings.TrimPrefix(v.Name, "FAMILY_")); got != want {
			t.Errorf("family %d is %q, want %q", v.Value, got, want)
		}
	}
	header, err := os.ReadFile("portcullis.h")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^#define NEVER 0xffffffffffffffffULL`).Match(header) || Never != 0xffffffffffffffff {
		t.Error("Never is not the header's NEVER")
	}
}

// TestObjectNames: the kernel cuts names at 15 characters, and two objects of one name are hard to tell apart.
func TestObjectNames(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range spec.Maps {
		if len(name) > 15 {
			t.Errorf("map name %s has more than 15 characters", name)
		}
		if m.Type == ebpf.LPMTrie && m.MaxEntries != 16<<20 {
			t.Errorf("map %s has room for %d entries by default, want 16 Mi", name, m.MaxEntries)
		}
	}
	for name := range spec.Programs {
		if len(name) > 15 {
			t.Errorf("program name %s has more than 15 characters", name)
		}
	}
}

// TestHelpers: deadlines are on the boot clock and the lease on the coarse one, and before 5.18 there are no helpers for fragments.
func TestHelpers(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	whole := []asm.BuiltinFunc{asm.FnMapLookupElem, asm.FnKtimeGetBootNs, asm.FnKtimeGetCoarseNs, asm.FnJiffies64,
		asm.FnRingbufReserve, asm.FnRingbufSubmit, asm.FnGetSmpProcessorId, asm.FnMapUpdateElem}
	frags := append([]asm.BuiltinFunc{asm.FnXdpLoadBytes, asm.FnXdpGetBuffLen}, whole...)
	for name, want := range map[string][]asm.BuiltinFunc{ProgEth: whole, ProgL3: whole, ProgEthFrags: frags, ProgL3Frags: frags} {
		called := map[asm.BuiltinFunc]bool{}
		for _, ins := range spec.Programs[name].Instructions {
			if ins.IsBuiltinCall() {
				called[asm.BuiltinFunc(ins.Constant)] = true
			}
		}
		for _, f := range want {
			if !called[f] {
				t.Errorf("%s does not call %s", name, f)
			}
			delete(called, f)
		}
		if len(called) > 0 {
			t.Errorf("%s also calls %v", name, called)
		}
	}
}

// TestUnknownMode: a program that does not know its mode, or what to count, must not judge packets.
func TestUnknownMode(t *testing.T) {
	needRoot(t)
	for name, value := range map[string]uint32{VarMode: ModeIndexed + 1, VarAccounting: AccountingExact + 1} {
		spec, err := Spec()
		if err != nil {
			t.Fatal(err)
		}
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatal(err)
		}
		c, err := ebpf.NewCollection(spec)
		var refused *ebpf.VerifierError
		if !errors.As(err, &refused) {
			if err == nil {
				c.Close()
			}
			t.Errorf("loading %s %d: %v, want the verifier's refusal", name, value, err)
		}
	}
}

// TestVerifierStatistics prints what the verifier walks and bounds it, so that growth is noticed; the kernel refuses
// at a million.
func TestVerifierStatistics(t *testing.T) {
	const walkMax, sizeMax = 100_000, 2_600
	for name, p := range loadMode(t, ModeIndexed).Programs { // the other mode is a part of it
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		code, err := info.Instructions()
		if err != nil {
			t.Fatal(err)
		}
		walked, ok := info.VerifiedInstructions() // Linux 5.16
		t.Logf("%s: %d instructions, the verifier walked %d", name, len(code), walked)
		if len(code) > sizeMax {
			t.Errorf("%s has %d instructions, want at most %d", name, len(code), sizeMax)
		}
		if ok && walked > walkMax {
			t.Errorf("the verifier walked %d instructions of %s, want at most %d", walked, name, walkMax)
		}
	}
}
