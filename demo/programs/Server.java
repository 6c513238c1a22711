import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The Java program of the tests: an HTTP server with a pool of threads, a counter and a heap that must survive.
 * GET /healthz, and GET /value: {"counter": requests so far, "value": computed from the heap}. PORT, MB.
 */
public final class Server {
    private static final AtomicLong counter = new AtomicLong();

    public static void main(String[] args) throws IOException {
        int port = setting("PORT", 8080);
        int megabytes = setting("MB", 32);

        int[] words = new int[megabytes << 18];
        int x = 0x92d68ca2;
        for (int i = 0; i < words.length; i++) {
            x ^= x << 13;
            x ^= x >>> 17;
            x ^= x << 5; // xorshift32: the same words in every run
            words[i] = x;
        }
        Map<String, Integer> index = new HashMap<>();
        for (int i = 0; i < 20_000; i++) {
            index.put("key-" + i, words[i]);
        }

        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", port), 128);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/healthz", e -> reply(e, "{\"status\":\"ok\"}\n"));
        server.createContext("/value", e -> reply(e,
                "{\"counter\":" + counter.incrementAndGet() + ",\"value\":" + value(words, index) + "}\n"));
        server.start();
        System.out.println("ready: " + megabytes + " MB, port " + port);
    }

    private static long value(int[] words, Map<String, Integer> index) {
        int v = index.get("key-7");
        int step = Math.max(1, words.length / 64);
        for (int i = 0; i < words.length; i += step) {
            v ^= words[i];
        }
        return v & 0xffffffffL;
    }

    private static void reply(HttpExchange exchange, String body) throws IOException {
        byte[] data = body.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.getResponseHeaders().set("Connection", "close");
        exchange.sendResponseHeaders(200, data.length);
        exchange.getResponseBody().write(data);
        exchange.close();
    }

    private static int setting(String name, int otherwise) {
        String value = System.getenv(name);
        return value == null ? otherwise : Integer.parseInt(value);
    }
}
