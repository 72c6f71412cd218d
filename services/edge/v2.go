package edge

import (
	"context"
	"crypto/sha256"
	"errors"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/edge/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/mllp"
)

// v2 is an HL7 v2 message on its way in.
type v2 struct {
	message
	unread error // why message is empty
	raw    []byte
}

func readV2(raw []byte, facilities map[string]string) v2 {
	m, err := parseMessage(raw)
	m.org = organisation(m, facilities)
	return v2{m, err, raw}
}

// reusesNames is true: senders count control ids from 1 again, and some send one
// id for ever. What a message is about has an identity of its own, so that an
// altered repeat changes nothing twice.
func (v v2) reusesNames() bool { return true }

func (v v2) name() (string, string) {
	if v.unread != nil || v.message.raw("MSH", 10) == "" {
		return "", "MSH-10"
	}
	return messageName(v.message), "MSH-10"
}

func (v v2) digest() [sha256.Size]byte { return digest(v.raw) }

func (v v2) header() *pb.MessageReceived {
	m := v.message
	return &pb.MessageReceived{
		Application: coded(m.get("MSH-3")), Facility: coded(m.get("MSH-4")), ControlId: coded(m.get("MSH-10")),
		Type: coded(m.kind()), Version: coded(m.get("MSH-12")), Sequence: m.sequence(),
	}
}

func (v v2) sender() (string, string) {
	system := coded(v.get("MSH-3"))
	return v.org, "hl7/" + system[:min(len(system), 40)]
}

func (v v2) patients() (names []patientName) {
	for _, p := range []struct {
		ids    []identifier
		prefix string
	}{{identifiers(v.message, "PID"), ""}, {identifiers(v.message, "MRG"), otherPatient}, {identifiers(v.second(), "PID"), otherPatient}} {
		for _, id := range p.ids {
			names = append(names, patientName{p.prefix, id.assigner, id.value})
		}
	}
	return names
}

// apply checks what every message must have, then does what its kind asks for.
func (v v2) apply(ctx context.Context, w *work) error {
	m := v.message
	w.m = m
	switch {
	case errors.Is(v.unread, errEncoding):
		return refuse("edge.charset", "MSH-18", "the bytes are not in the character set that MSH-18 declares, or that set is not taken")
	case v.unread != nil:
		return refuseKind("edge.hl7.unreadable", "MSH-1", v.unread.Error())
	case m.get("MSH-10") == "":
		return refuse("edge.field.required", "MSH-10", "the message control id is missing")
	case !versions.MatchString(m.get("MSH-12")):
		return refuseKind("edge.version.unknown", "MSH-12", "versions 2.3 to 2.8 are taken")
	}
	do, known := kinds[m.kind()]
	if !known {
		return refuseKind("edge.type.unknown", "MSH-9", "messages of this type are not taken")
	}
	if m.org == noFacility {
		return park("edge.facility.unknown", "MSH-4", "the sending facility is no ODS code (3 to 10 capital letters and digits): correct it, or have the edge started with --facility NAME=ODS")
	}
	if m.second().segments != nil && m.kind() != "ADT/A24" && m.kind() != "ADT/A37" {
		return park("edge.patients.several", "PID-3", "the message is about several patients: have them sent apart")
	}
	if err := w.waits(); err != nil {
		return err
	}
	return do(ctx, w)
}

var (
	versions = regexp.MustCompile(`^2\.[3-8](\.[0-9])?$`)
	odsCode  = regexp.MustCompile(`^[A-Z0-9]{3,10}$`)
)

// noFacility stands for the organisation of a message that does not say it.
const noFacility = "UNKNOWN"

// organisation is the ODS code of whose record a message is, by MSH-4 or by the
// name there.
func organisation(m message, facilities map[string]string) string {
	facility := m.get("MSH-4")
	if code := facilities[strings.ToUpper(facility)]; code != "" {
		return code
	}
	if odsCode.MatchString(facility) {
		return facility
	}
	return noFacility
}

func (v v2) answer(id string, outcome proto.Message) []byte {
	return acknowledge(v.message, id, outcome)
}

func (v v2) fields() ([]*pb.Field, error) { return v.list(), v.unread }

// corrected puts the corrections into a message.
func (v v2) corrected(corrections []*pb.Correction) ([]byte, error) {
	if v.unread != nil {
		return nil, fault.Refused("edge.redrive.unreadable", "the message cannot be split into fields, so no field can be corrected")
	}
	m := v.message
	for _, c := range corrections {
		p, err := parsePath(c.Path)
		if err != nil || p.segment == "MSH" && p.field <= 2 || p.field > 200 || p.repetition > 100 || p.component > 100 || p.subcomponent > 100 {
			return nil, fault.Invalid("edge.redrive.path", "corrections.path", "a path looks like PID-3[2].4, and MSH-1 and MSH-2 stay")
		}
		if !m.set(p, c.Value) {
			return nil, fault.Invalid("edge.redrive.path", "corrections.path", "the message has no such segment")
		}
	}
	out := m.bytes()
	if len(out) > mllp.MaxMessage {
		return nil, fault.Invalid("edge.redrive.size", "corrections.value", "the corrected message is larger than 512 KiB")
	}
	return out, nil
}
