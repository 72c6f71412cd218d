package edge

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	planv1 "waymark/proto/waymark/plan/v1"
)

// filed is the document that an id of ours stands for, and the pathway that has
// it; nil when none has.
func (w *work) filed(ctx context.Context, id string) (pathway string, d *planv1.DocumentView, err error) {
	for _, pathway := range w.pathways() {
		reply, err := w.service.plans.GetPlan(ctx, &planv1.GetPlanRequest{PathwayId: pathway})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return "", nil, answered(err, "TXA-12")
		}
		if i := slices.IndexFunc(reply.Record.Documents, func(d *planv1.DocumentView) bool { return d.Document.DocumentId == id }); i >= 0 {
			return pathway, reply.Record.Documents[i], nil
		}
	}
	return "", nil, nil
}

// documentStatuses are the values of HL7 table 0271 that the plan keeps.
var documentStatuses = []string{"DI", "DO", "IP", "IN", "PA", "AU", "LA"}

// attach is MDM T02 and T08: the reference goes to the plan; what was written
// stays in the message.
func attach(ctx context.Context, w *work) error {
	external, err := w.external("TXA-12", 200)
	if err != nil {
		return err
	}
	kind := coded(w.m.get("TXA-2"))
	if kind == "" {
		return refuse("edge.field.required", "TXA-2", "the message does not say what kind of document it is")
	}
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	if w.thing("document", external) {
		return nil
	}
	d := &planv1.Document{DocumentId: w.derived("document", external), Type: short(kind, 60), Organisation: w.m.org, ExternalId: external,
		MessageId: w.arrival.commands, On: w.dayOf("TXA-4", "TXA-6", "TXA-7", "TXA-8")}
	if s := w.m.get("TXA-17"); slices.Contains(documentStatuses, s) {
		d.Status = s
	}
	pathway, known, err := w.filed(ctx, d.DocumentId)
	if err != nil {
		return err
	}
	if known == nil || known.Versions == 1 && known.Document.MessageId == w.arrival.commands { // this message's own, before a crash
		if known == nil {
			if pathway, err = w.pathway(ctx); err != nil {
				return err
			}
		}
		c := w.command("attach")
		if _, err := w.service.plans.AttachDocument(ctx, &planv1.AttachDocumentRequest{Command: c, PathwayId: pathway, Document: d}); err != nil {
			return answered(err, "TXA-4")
		}
		w.done("plan.AttachDocument", c, pathway)
		return nil
	}
	c := w.command("replace")
	if _, err := w.service.plans.ReplaceDocument(ctx, &planv1.ReplaceDocumentRequest{Command: c, PathwayId: pathway, Document: d}); err != nil {
		return answered(err, "TXA-4")
	}
	w.done("plan.ReplaceDocument", c, pathway)
	return nil
}

// withdraw is MDM T11.
func withdraw(ctx context.Context, w *work) error {
	external, err := w.external("TXA-12", 200)
	if err != nil {
		return err
	}
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	if w.thing("document", external) {
		return nil
	}
	id := w.derived("document", external)
	pathway, known, err := w.filed(ctx, id)
	if err != nil {
		return err
	}
	if known == nil {
		if _, err := w.pathway(ctx); err != nil {
			return err
		}
		return park("edge.document.unknown", "TXA-12", "no document with this identifier is attached: redrive it once its T02 was applied")
	}
	c := w.command("withdraw")
	if _, err := w.service.plans.WithdrawDocument(ctx, &planv1.WithdrawDocumentRequest{Command: c, PathwayId: pathway, DocumentId: id, MessageId: w.arrival.commands}); err != nil {
		return answered(err, "TXA-12")
	}
	w.done("plan.WithdrawDocument", c, pathway)
	return nil
}
