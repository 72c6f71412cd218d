package plan

import (
	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/plan/v1"
	"waymark/services/kit/fault"
)

func (s State) document(id string) (*pb.DocumentView, error) {
	d, ok := find(s.documents, func(d *pb.DocumentView) bool { return d.Document.DocumentId == id })
	if !ok {
		return nil, unknown("document")
	}
	return d, nil
}

// filed is a document as it is kept.
func filed(d *pb.Document) *pb.Document {
	d = proto.CloneOf(d)
	d.DocumentId, d.MessageId = lower(d.DocumentId), lower(d.MessageId)
	return d
}

// AttachDocument takes in the reference to a document of another system.
type AttachDocument struct {
	Env
	*pb.AttachDocumentRequest
}

// Decide refuses a second document with the id of one that is there: who means
// the same one in a newer version says so.
func (c AttachDocument) Decide(s State) ([]proto.Message, error) {
	if err := c.happened("document.on", c.Document.On); err != nil {
		return nil, err
	}
	if _, err := s.document(lower(c.Document.DocumentId)); err == nil {
		return nil, fault.Exists("plan.document.exists", "the document is attached already: replace it with its newer version")
	}
	return events(&pb.DocumentAttached{Document: filed(c.Document)})
}

// ReplaceDocument puts a newer version in the place of a document, also of one
// that was withdrawn.
type ReplaceDocument struct {
	Env
	*pb.ReplaceDocumentRequest
}

// Decide needs the document.
func (c ReplaceDocument) Decide(s State) ([]proto.Message, error) {
	_, err := s.document(lower(c.Document.DocumentId))
	if err := first(err, c.happened("document.on", c.Document.On)); err != nil {
		return nil, err
	}
	return events(&pb.DocumentReplaced{Document: filed(c.Document)})
}

// WithdrawDocument takes a document back. What was there stays in the log.
type WithdrawDocument struct {
	Env
	*pb.WithdrawDocumentRequest
}

// Decide does nothing for one that was withdrawn before.
func (c WithdrawDocument) Decide(s State) ([]proto.Message, error) {
	d, err := s.document(lower(c.DocumentId))
	if err != nil || d.Withdrawn {
		return nil, err
	}
	return events(&pb.DocumentWithdrawn{DocumentId: lower(c.DocumentId), MessageId: lower(c.MessageId)})
}

func evolveDocument(s State, e proto.Message) (State, bool) {
	edit := func(id string, change func(*pb.DocumentView)) (State, bool) {
		s.documents = with(s.documents, func(d *pb.DocumentView) bool { return d.Document.DocumentId == id }, change)
		return s, true
	}
	switch e := e.(type) {
	case *pb.DocumentAttached:
		s.documents = add(s.documents, &pb.DocumentView{Document: e.Document, Versions: 1})
		return s, true
	case *pb.DocumentReplaced:
		return edit(e.Document.GetDocumentId(), func(d *pb.DocumentView) {
			d.Document, d.Withdrawn = e.Document, false
			d.Versions++
		})
	case *pb.DocumentWithdrawn:
		return edit(e.DocumentId, func(d *pb.DocumentView) { d.Withdrawn = true })
	}
	return s, false
}
