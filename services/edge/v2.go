package edge

import (
	"context"
	"crypto/sha256"
	"errors"
	"regexp"

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

func readV2(raw []byte) v2 {
	m, err := parseMessage(raw)
	return v2{m, err, raw}
}

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
		Type: coded(m.kind()), Version: coded(m.get("MSH-12")),
	}
}

func (v v2) sender() (string, string) {
	system := coded(v.get("MSH-3"))
	return organisation(v.message), "hl7/" + system[:min(len(system), 40)]
}

func (v v2) patients() (names []patientName) {
	for _, p := range []struct{ segment, prefix string }{{"PID", ""}, {"MRG", otherPatient}} {
		for _, id := range identifiers(v.message, p.segment) {
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
	switch {
	case known && do == nil:
		return refuseKind("edge.type.not_taken", "MSH-9.2", "messages of this type are not taken yet")
	case !known:
		return refuseKind("edge.type.unknown", "MSH-9", "messages of this type are not known")
	}
	if !odsCode.MatchString(m.get("MSH-4")) {
		return park("edge.facility.unknown", "MSH-4", "the sending facility is no ODS code (3 to 10 capital letters and digits)")
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

// organisation is whose record the message is; UNKNOWN where it does not say.
func organisation(m message) string {
	if facility := m.get("MSH-4"); odsCode.MatchString(facility) {
		return facility
	}
	return "UNKNOWN"
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
