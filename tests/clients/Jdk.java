// The JDK's HttpClient, which asks for HTTP/2 by an upgrade unless it is told otherwise: with a body, a picture, a
// stream.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;

public class Jdk {
  static final String BASE = System.getenv("BASE");
  static final String MODEL = "glm-4.6v-flash";

  static HttpRequest.Builder post(String content, String more) {
    String body =
        "{\"model\": \"" + MODEL + "\", \"temperature\": 0, \"reasoning_effort\": \"none\", \"max_tokens\": 64, "
            + more + "\"messages\": [{\"role\": \"user\", \"content\": " + content + "}]}";
    return HttpRequest.newBuilder(URI.create(BASE + "/v1/chat/completions"))
        .header("Content-Type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString(body));
  }

  static void check(boolean holds, String seen) {
    if (!holds) throw new AssertionError(seen);
  }

  public static void main(String[] arguments) throws Exception {
    String star = Base64.getEncoder().encodeToString(Files.readAllBytes(Path.of(System.getenv("STAR"))));
    String picture =
        "[{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64," + star + "\"}}, "
            + "{\"type\": \"text\", \"text\": \"What is in this image?\"}]";
    for (HttpClient.Version version : HttpClient.Version.values()) {
      HttpClient client = HttpClient.newBuilder().version(version).build();
      for (int round = 0; round < 2; round++) { // the second on a connection that is open
        HttpResponse<String> answer =
            client.send(post("\"Who are you?\"", "").build(), HttpResponse.BodyHandlers.ofString());
        check(answer.statusCode() == 200 && answer.body().contains("\"stop\""), version + answer.body());
      }
      HttpResponse<String> look =
          client.send(post(picture, "").build(), HttpResponse.BodyHandlers.ofString());
      check(look.statusCode() == 200 && look.body().contains("star"), version + look.body());

      HttpResponse<java.util.stream.Stream<String>> stream =
          client.send(post("\"Who are you?\"", "\"stream\": true, ").build(), HttpResponse.BodyHandlers.ofLines());
      List<String> lines = stream.body().filter(line -> !line.isEmpty()).toList();
      check(lines.size() > 3 && lines.get(lines.size() - 1).equals("data: [DONE]"), version + lines.toString());

      HttpRequest waiting = post("\"Who are you?\"", "").expectContinue(true).build();
      HttpResponse<String> waited = client.send(waiting, HttpResponse.BodyHandlers.ofString());
      check(waited.statusCode() == 200, version + waited.body());

      HttpRequest wrong = post("3", "").build();
      HttpResponse<String> refused = client.send(wrong, HttpResponse.BodyHandlers.ofString());
      check(refused.statusCode() == 400, version + refused.body());
    }
    System.out.println("jdk " + Runtime.version().feature() + ": ok");
  }
}
