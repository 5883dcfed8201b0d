// grpc-go's own interop server, and its interop client's cases (https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md).
//
//	grpc_go serve CERT.pem            prints its port, then the metadata `authorization` of each call
//	grpc_go call TARGET CA.pem TOKEN  runs each case with `authorization: Bearer TOKEN`, through HTTPS_PROXY, and prints its name; a case that fails ends it
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func told(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	fmt.Println(md["authorization"])
}

func serve(pem string) {
	tls, err := credentials.NewServerTLSFromFile(pem, pem)
	check(err)
	at, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(at.Addr().(*net.TCPAddr).Port)
	server := grpc.NewServer(grpc.Creds(tls),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			told(ctx)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			told(stream.Context())
			return next(srv, stream)
		}))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	check(server.Serve(at))
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func call(target, ca, token string) {
	tls, err := credentials.NewClientTLSFromFile(ca, "")
	check(err)
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(tls), grpc.WithPerRPCCredentials(bearer(token)))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	test, none := testgrpc.NewTestServiceClient(conn), testgrpc.NewUnimplementedServiceClient(conn)
	for _, one := range []struct {
		name string
		run  func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
	}{
		{"empty_unary", interop.DoEmptyUnaryCall}, {"large_unary", interop.DoLargeUnaryCall}, {"client_streaming", interop.DoClientStreaming},
		{"server_streaming", interop.DoServerStreaming}, {"ping_pong", interop.DoPingPong}, {"empty_stream", interop.DoEmptyStream},
		{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer}, {"cancel_after_begin", interop.DoCancelAfterBegin},
		{"cancel_after_first_response", interop.DoCancelAfterFirstResponse}, {"custom_metadata", interop.DoCustomMetadata},
		{"status_code_and_message", interop.DoStatusCodeAndMessage}, {"special_status_message", interop.DoSpecialStatusMessage},
		{"unimplemented_method", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedMethod(ctx, conn)
		}},
		{"unimplemented_service", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedService(ctx, none)
		}},
	} {
		one.run(ctx, test)
		fmt.Println(one.name)
	}
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(os.Args[2])
	} else if len(os.Args) == 5 && os.Args[1] == "call" {
		call(os.Args[2], os.Args[3], os.Args[4])
	} else {
		log.Fatal("see the head of main.go")
	}
}
