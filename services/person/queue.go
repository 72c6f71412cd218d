package person

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
)

// queue is the read model of what waits for a person to look at it: held merges,
// numbers that died, numbers to be traced. It holds the open items only, and is
// folded from the person streams anew at each start.
type queue struct {
	*es.Follower // its lock guards items

	items map[itemKey]item
}

// itemKey is what makes an item one: a person has one of each kind, but may have
// several merges over time.
type itemKey struct {
	kind            personv1.ReviewKind
	person, mergeID string
}

type item struct {
	review *personv1.Review // never changed, but replaced
	at     es.Position      // orders the queue; one event makes one item at most
	merged bool             // the person is part of another: nothing to do as long as that stands
}

func newQueue(log es.Log) *queue {
	q, types := &queue{items: map[itemKey]item{}}, []string{}
	q.Follower = es.Follow(log, "person.queue.behind", q.apply, "person")
	for _, m := range []proto.Message{&personv1.PersonRegistered{}, &personv1.NhsNumberRecorded{}, &personv1.NhsNumberStatusChanged{}, &personv1.NhsNumberInvalidated{}, &personv1.NhsNumberEnteredInError{},
		&personv1.MergeHeldForReview{}, &personv1.MergeApproved{}, &personv1.MergeRejected{}, &personv1.PersonMergedInto{}, &personv1.MergeReversed{}} {
		types = append(types, es.TypeOf(m))
	}
	q.Only(types...)
	return q
}

func (q *queue) apply(at es.Recorded) error {
	event, err := es.Decode(at)
	if err != nil {
		return err
	}
	q.fold(at, event)
	return nil
}

// list returns at most size reviews after a position, oldest first.
func (q *queue) list(kind personv1.ReviewKind, after es.Position, size int) *personv1.ListReviewsReply {
	q.Lock()
	defer q.Unlock()
	found := slices.DeleteFunc(slices.Collect(maps.Values(q.items)), func(i item) bool {
		return i.merged || i.at <= after || kind != personv1.ReviewKind_REVIEW_KIND_UNSPECIFIED && i.review.Kind != kind
	})
	slices.SortFunc(found, func(a, b item) int { return cmp.Compare(a.at, b.at) })
	out := &personv1.ListReviewsReply{Position: uint64(q.At())}
	for _, i := range found[:min(size, len(found))] {
		out.Reviews = append(out.Reviews, i.review)
	}
	if len(found) > size {
		out.NextPageToken = strconv.FormatUint(uint64(found[size-1].at), 36)
	}
	return out
}

// fold applies one event. The caller holds the lock.
func (q *queue) fold(at es.Recorded, event proto.Message) {
	_, person, _ := strings.Cut(at.Stream, "-")
	switch e := event.(type) {
	case *personv1.PersonRegistered:
		q.status(at, person, e.Status)
	case *personv1.NhsNumberRecorded:
		delete(q.items, itemKey{personv1.ReviewKind_REVIEW_KIND_NHS_NUMBER_INVALIDATED, person, ""})
		q.status(at, person, e.Status)
	case *personv1.NhsNumberStatusChanged:
		q.status(at, person, e.Status)
	case *personv1.NhsNumberInvalidated:
		delete(q.items, itemKey{personv1.ReviewKind_REVIEW_KIND_TRACE, person, ""})
		q.open(at, itemKey{personv1.ReviewKind_REVIEW_KIND_NHS_NUMBER_INVALIDATED, person, ""}, &personv1.Review{NhsNumberStatus: "05"})
	case *personv1.NhsNumberEnteredInError:
		q.status(at, person, "03")
	case *personv1.MergeHeldForReview:
		q.open(at, itemKey{personv1.ReviewKind_REVIEW_KIND_MERGE_HELD, person, e.MergeId}, &personv1.Review{Merge: &personv1.Merge{
			MergeId: e.MergeId, SurvivingPersonId: e.SurvivingPersonId, MergedPersonId: e.MergedPersonId,
			State: personv1.MergeState_MERGE_STATE_HELD, Reasons: e.Reasons,
		}})
	case *personv1.MergeApproved:
		delete(q.items, itemKey{personv1.ReviewKind_REVIEW_KIND_MERGE_HELD, person, e.MergeId})
	case *personv1.MergeRejected:
		delete(q.items, itemKey{personv1.ReviewKind_REVIEW_KIND_MERGE_HELD, person, e.MergeId})
	case *personv1.PersonMergedInto:
		q.merged(person, true)
	case *personv1.MergeReversed:
		if person == e.MergedPersonId {
			q.merged(person, false)
		}
	}
}

// status opens or closes the trace of a person, by the NHS number's status.
func (q *queue) status(at es.Recorded, person, status string) {
	trace := itemKey{personv1.ReviewKind_REVIEW_KIND_TRACE, person, ""}
	_, dead := q.items[itemKey{personv1.ReviewKind_REVIEW_KIND_NHS_NUMBER_INVALIDATED, person, ""}]
	switch status {
	case "03", "04", "05", "06":
		if !dead {
			q.open(at, trace, &personv1.Review{NhsNumberStatus: status})
		}
	default:
		delete(q.items, trace)
	}
}

// open adds an item, or renews one and leaves its place in the queue.
func (q *queue) open(at es.Recorded, key itemKey, review *personv1.Review) {
	review.Kind, review.PersonId, review.Since = key.kind, key.person, timestamppb.New(at.Recorded)
	i := item{review: review, at: at.Position}
	if old, ok := q.items[key]; ok {
		review.Since, i.at = old.review.Since, old.at
	}
	q.items[key] = i
}

func (q *queue) merged(person string, merged bool) {
	for _, kind := range []personv1.ReviewKind{personv1.ReviewKind_REVIEW_KIND_TRACE, personv1.ReviewKind_REVIEW_KIND_NHS_NUMBER_INVALIDATED} {
		key := itemKey{kind, person, ""}
		if i, ok := q.items[key]; ok {
			i.merged = merged
			q.items[key] = i
		}
	}
}
