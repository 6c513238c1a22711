package spec

// The servers that TestRunServers starts. Each uses what its language's library does behind the scenes: threads,
// subprocesses, file and name look-ups, timers.

const pythonServer = `
import concurrent.futures, http.server, multiprocessing, subprocess, sys, tempfile, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            total = sum(pool.map(lambda i: 1, range(100)))
        with tempfile.TemporaryFile() as f:
            f.write(b"x")
        shared = multiprocessing.get_context("fork").Value("i", 0)
        one = subprocess.run(["sh", "-c", "echo 1"], capture_output=True, text=True).stdout.strip()
        body = ("python %d %s" % (total, one)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
`

const nodeServer = `
const { Worker } = require("worker_threads"), fs = require("fs"), child = require("child_process");
require("http").createServer((req, res) => {
  fs.readdir("/etc", () => {
    const w = new Worker("require('worker_threads').parentPort.postMessage(1+2)", { eval: true });
    w.on("message", n => child.execFile("echo", ["hello"], (err, out) => res.end("node " + n + " " + (err ? err : out.trim()))));
  });
}).listen(+process.argv[2], "127.0.0.1");
`

const javaServer = `
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.*;
public class Server {
    public static void main(String[] args) throws Exception {
        HttpServer s = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0])), 0);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        s.setExecutor(pool);
        s.createContext("/", x -> {
            try {
                int sum = 0;
                ExecutorService workers = Executors.newFixedThreadPool(8);
                for (Future<Integer> f : workers.invokeAll(java.util.Collections.nCopies(8, (Callable<Integer>) () -> 1))) sum += f.get();
                workers.shutdown();
                byte[] body = ("java " + sum).getBytes();
                x.sendResponseHeaders(200, body.length);
                x.getResponseBody().write(body);
            } catch (Exception e) { e.printStackTrace(); }
            x.close();
        });
        s.start();
    }
}
`

const nginxConfig = `
daemon off;
worker_processes 2;
pid /tmp/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    aio threads;
    sendfile on;
    client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
    server { listen 127.0.0.1:PORT; root /srv/page; }
}
`

const goServer = `package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		n := 0
		for range 64 {
			wg.Add(1)
			go func() { defer wg.Done(); mu.Lock(); n++; mu.Unlock() }()
		}
		wg.Wait()
		if err := exec.Command("true").Run(); err != nil {
			fmt.Fprint(w, err, " ")
		}
		fmt.Fprintf(w, "go %d", n)
	})
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
`
