package referral

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"sort"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
)

// directoryServer is the gRPC face of the directory.
type directoryServer struct {
	pb.UnimplementedDirectoryServiceServer
	*service
}

func (s *directoryServer) do(ctx context.Context, id string, req es.Request, c decision[Entry]) (*pb.ServiceReply, error) {
	state, err := s.entries.Do(ctx, streamID(id), req, c.Decide)
	if err != nil {
		return nil, err
	}
	return &pb.ServiceReply{Service: state.Value.Service, Receipt: state.Receipt()}, nil
}

func (s *directoryServer) RegisterService(ctx context.Context, req *pb.RegisterServiceRequest) (*pb.ServiceReply, error) {
	id := commandID(req)
	return s.do(ctx, or(req.ServiceId, serviceID(id)), req, RegisterService{req, id})
}

func (s *directoryServer) AmendService(ctx context.Context, req *pb.AmendServiceRequest) (*pb.ServiceReply, error) {
	return s.do(ctx, req.ServiceId, req, AmendService{req})
}

func (s *directoryServer) RetireService(ctx context.Context, req *pb.RetireServiceRequest) (*pb.ServiceReply, error) {
	return s.do(ctx, req.ServiceId, req, RetireService{req})
}

// GetService reads the stream, so its answer is never behind min_position.
func (s *directoryServer) GetService(ctx context.Context, req *pb.GetServiceRequest) (*pb.GetServiceResponse, error) {
	state, err := s.entries.Load(ctx, streamID(req.ServiceId))
	if err != nil {
		return nil, err
	}
	if state.Value.Service == nil {
		return nil, errNoService
	}
	return &pb.GetServiceResponse{Service: state.Value.Service, ReadAt: state.Receipt()}, nil
}

const defaultPage, largestPage = 50, 200

// SearchServices answers from the read model, which it waits for to reach
// min_position.
func (s *directoryServer) SearchServices(ctx context.Context, req *pb.SearchServicesRequest) (*pb.SearchServicesResponse, error) {
	after, err := s.openPage(req)
	if err != nil {
		return nil, err
	}
	if err := s.directory.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	size := min(int(req.PageSize), largestPage)
	if size == 0 {
		size = defaultPage
	}
	found, position := s.directory.search(matches(req))
	found = found[sort.Search(len(found), func(i int) bool { return sortKey(found[i]) > after }):]
	out := &pb.SearchServicesResponse{Services: found, Position: uint64(position)}
	if len(found) > size {
		out.Services = found[:size]
		out.NextPageToken = s.pageToken(req, sortKey(found[size-1]))
	}
	return out, nil
}

// pageToken seals where a page ended, for the same conditions only. The MAC keeps
// callers from making up tokens, which would tie us to their form.
func (s *service) pageToken(req *pb.SearchServicesRequest, after string) string {
	return base64.RawURLEncoding.EncodeToString(append(s.seal(req, after), after...))
}

func (s *service) openPage(req *pb.SearchServicesRequest) (after string, err error) {
	if req.PageToken == "" {
		return "", nil
	}
	token, err := base64.RawURLEncoding.DecodeString(req.PageToken)
	if err == nil && len(token) > sealLen && hmac.Equal(token[:sealLen], s.seal(req, string(token[sealLen:]))) {
		return string(token[sealLen:]), nil
	}
	return "", fault.Invalid("directory.page_token", "page_token", "must be that of the page before, with the same conditions")
}

const sealLen = 16

func (s *service) seal(req *pb.SearchServicesRequest, after string) []byte {
	conditions := proto.CloneOf(req)
	conditions.PageToken, conditions.PageSize, conditions.MinPosition = "", 0, 0
	body, _ := proto.MarshalOptions{Deterministic: true}.Marshal(conditions)
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte("page of services\x00"))
	mac.Write(body)
	mac.Write([]byte{0})
	mac.Write([]byte(after))
	return mac.Sum(nil)[:sealLen]
}
