package bpf

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// Names of the programs and maps in the [Spec]; the maps' are also those under the pin directory.
const (
	ProgEth      = portcullisProgXdpEth
	ProgEthFrags = portcullisProgXdpEthFrags
	ProgL3       = portcullisProgXdpL3
	ProgL3Frags  = portcullisProgXdpL3Frags

	MapControl  = portcullisMapControl
	MapCounters = portcullisMapCounters
	MapV4A      = portcullisMapLpmV4A
	MapV4B      = portcullisMapLpmV4B
	MapV6A      = portcullisMapLpmV6A
	MapV6B      = portcullisMapLpmV6B

	MapIndex  = portcullisMapIndexV4
	MapGate   = portcullisMapGateV4
	MapIndex6 = portcullisMapIndexV6
	MapRoot6  = portcullisMapRootV6
	MapChecks = portcullisMapChecks

	MapPrefixes = portcullisMapPrefixes // key is a KeyV6, IPv4 as ::ffff:a.b.c.d
	MapSources  = portcullisMapSources
	MapSamples  = portcullisMapSamples
	MapSampled  = portcullisMapSampled

	// VarMode is the variable of [ModeLPM] or [ModeIndexed], to be set before load; an unknown mode does not pass the verifier.
	VarMode = portcullisVarMode
	// VarAccounting is the variable of [AccountingSampled] or [AccountingExact], of the same kind.
	VarAccounting = portcullisVarAccounting
)

// The values of maps and the keys of tries, as the kernel reads them.
type (
	Control = portcullisControlWords // the one element of [MapControl]
	Cell    = portcullisCell         // value of every trie; deadlines in ns of CLOCK_BOOTTIME, 0 = none, or [Never]
	KeyV4   = portcullisLpmKeyV4     // Addr in network order, host bits zero
	KeyV6   = portcullisLpmKeyV6     // the same
	Count   = portcullisCount        // value of [MapCounters], one for every possible CPU
	Check   = portcullisCheck        // value of [MapChecks], one for every possible CPU
	Hits    = portcullisHits         // value of [MapPrefixes], and of [MapSources], there one for every possible CPU
	Sample  = portcullisSample       // record of [MapSamples]
	Sampled = portcullisSampleCount  // value of [MapSampled], one for every possible CPU
)

const (
	// Layout is the version of the map layouts; pinned maps of another are not to be used.
	Layout = uint32(portcullisLayoutLAYOUT_VERSION)
	// Never is the deadline that does not come.
	Never uint64 = math.MaxUint64
	// CellProtected in Cell.Flags: PassUntil comes from a protected address.
	CellProtected = uint8(portcullisCellFlagCELL_PROTECTED)
	// ModeLPM looks sources up in the LPM tries alone.
	ModeLPM = uint32(portcullisLookupModeMODE_LPM)
	// ModeIndexed asks the indexes first.
	ModeIndexed = uint32(portcullisLookupModeMODE_INDEXED)
	// AccountingSampled counts nothing for single entries.
	AccountingSampled = uint32(portcullisAccountingModeACCOUNTING_SAMPLED)
	// AccountingExact counts each drop by prefix and by source, and so drops by the tries alone.
	AccountingExact = uint32(portcullisAccountingModeACCOUNTING_EXACT)
)

// The index in [MapIndex], as portcullis.h has it: segments of SegmentLines lines of eight words.
const (
	SegmentLines = int(portcullisIndexLayoutSEGMENT_LINES)
	SlotCells    = int(portcullisIndexLayoutSLOT_CELLS)
	SlotBuckets  = int(portcullisIndexLayoutSLOT_BUCKETS)
	SlotLeaves   = int(portcullisIndexLayoutSLOT_LEAVES)
	IndexSlots   = int(portcullisIndexLayoutINDEX_SLOTS) // of one side
	GateLines    = int(portcullisIndexLayoutGATE_LINES)  // of one side

	CodeHosts = uint64(portcullisIndexCodeCODE_HOSTS)
	CodeDrop  = uint64(portcullisIndexCodeCODE_DROP)
	CodeAsk   = uint64(portcullisIndexCodeCODE_ASK)
	CodeLeaf  = uint64(portcullisIndexCodeCODE_LEAF)

	GateCell  = uint64(portcullisGateBitsGATE_CELL)
	GateEmpty = uint64(portcullisGateBitsGATE_EMPTY)
)

// Of samples, as events.h writes them: SampleInterval apart for each counter of each CPU, but SampleBurst at once.
const (
	SamplePacket   = int(portcullisSamplingSAMPLE_PACKET) // bytes of a packet that are kept
	SampleInterval = time.Duration(portcullisSamplingSAMPLE_INTERVAL)
	SampleBurst    = int(portcullisSamplingSAMPLE_TOLERANCE/portcullisSamplingSAMPLE_INTERVAL) + 1
)

// The IPv6 index in [MapIndex6], of the same segments, and [MapRoot6].
const (
	SlotGates6  = int(portcullisIndex6LayoutSLOT6GATES)
	SlotNets6   = int(portcullisIndex6LayoutSLOT6NETS)
	SlotHosts6  = int(portcullisIndex6LayoutSLOT6HOSTS)
	Index6Slots = int(portcullisIndex6LayoutINDEX6SLOTS) // of one side
	Root6Lines  = int(portcullisIndex6LayoutROOT6LINES)  // of one side

	Level6Hosts   = uint64(portcullisIndex6LayoutLEVEL6HOSTS)
	Level6Shift   = int(portcullisWord6LEVEL6SHIFT)
	Second6       = uint64(portcullisWord6SECOND6)
	Spilled6      = uint64(portcullisWord6SPILLED6)
	Root6Shift    = int(portcullisBits6ROOT6SHIFT)
	Ask6          = uint64(portcullisBits6ASK6)
	Answer6Pass   = uint64(portcullisAnswer6ANSWER6PASS)
	Answer6Drop   = uint64(portcullisAnswer6ANSWER6DROP)
	Answer6Ask    = uint64(portcullisAnswer6ANSWER6ASK)
	Answer6Always = uint64(portcullisAnswer6ANSWER6ALWAYS)
)

// Spec returns a fresh description of all programs and maps. Before loading it on a kernel older than 5.18, delete
// the two Frags programs from it.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadPortcullis()
	if err != nil {
		return nil, fmt.Errorf("read embedded program: %w", err)
	}
	return spec, nil
}

// Family is that of a packet, by its ethertype (or version nibble where there is none).
type Family = portcullisFamily

// The families; Families counts them.
const (
	FamilyOther = portcullisFamilyFAMILY_OTHER
	FamilyIPv4  = portcullisFamilyFAMILY_IPV4
	FamilyIPv6  = portcullisFamilyFAMILY_IPV6
	Families    = int(portcullisFamilyFAMILIES)
)

// String is "other", "ipv4" or "ipv6".
func (f portcullisFamily) String() string {
	switch f {
	case FamilyOther:
		return "other"
	case FamilyIPv4:
		return "ipv4"
	case FamilyIPv6:
		return "ipv6"
	}
	return fmt.Sprintf("family(%d)", uint32(f))
}

// Reason is a way out of the program: every packet leaves by exactly one.
type Reason = portcullisReason

// The reasons; docs/DATAPATH.md says when each is used. Reasons counts them.
const (
	PassUnlisted    = portcullisReasonREASON_PASS_UNLISTED
	PassExpired     = portcullisReasonREASON_PASS_EXPIRED
	PassWhitelisted = portcullisReasonREASON_PASS_WHITELISTED
	PassProtected   = portcullisReasonREASON_PASS_PROTECTED
	PassNonIP       = portcullisReasonREASON_PASS_NON_IP
	PassUnspecified = portcullisReasonREASON_PASS_UNSPECIFIED
	PassLinkLocal   = portcullisReasonREASON_PASS_LINK_LOCAL
	PassNeighbour   = portcullisReasonREASON_PASS_NEIGHBOUR
	PassBypass      = portcullisReasonREASON_PASS_BYPASS
	PassFirewallOff = portcullisReasonREASON_PASS_FIREWALL_OFF
	PassIndex       = portcullisReasonREASON_PASS_INDEX
	DropBlacklisted = portcullisReasonREASON_DROP_BLACKLISTED
	DropShort       = portcullisReasonREASON_DROP_SHORT
	DropVLANDepth   = portcullisReasonREASON_DROP_VLAN_DEPTH
	DropVersion     = portcullisReasonREASON_DROP_VERSION
	Reasons         = int(portcullisReasonREASONS)
)

// String is the enum's name as counters and metrics show it: "drop_blacklisted".
func (r portcullisReason) String() string {
	switch r {
	case PassUnlisted:
		return "pass_unlisted"
	case PassExpired:
		return "pass_expired"
	case PassWhitelisted:
		return "pass_whitelisted"
	case PassProtected:
		return "pass_protected"
	case PassNonIP:
		return "pass_non_ip"
	case PassUnspecified:
		return "pass_unspecified"
	case PassLinkLocal:
		return "pass_link_local"
	case PassNeighbour:
		return "pass_neighbour"
	case PassBypass:
		return "pass_bypass"
	case PassFirewallOff:
		return "pass_firewall_off"
	case PassIndex:
		return "pass_index"
	case DropBlacklisted:
		return "drop_blacklisted"
	case DropShort:
		return "drop_short"
	case DropVLANDepth:
		return "drop_vlan_depth"
	case DropVersion:
		return "drop_version"
	}
	return fmt.Sprintf("reason(%d)", uint32(r))
}

// Drops reports whether packets that leave by it are dropped.
func (r portcullisReason) Drops() bool { return r >= DropBlacklisted }

// Way is the index of a counter in [MapCounters], which holds Families*Reasons of them.
func Way(f Family, r Reason) uint32 { return uint32(f)*uint32(Reasons) + uint32(r) }
