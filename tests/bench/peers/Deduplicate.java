import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Properties;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The job in Kafka Streams, exactly once: drops events whose id its RocksDB store has seen, forwards the others.
 *
 * <p>A record holds one event or several, one JSON object per line; what is left of it goes out as one record. It
 * verifies no signature and proves nothing. What Kafka Streams does by default stays as it is.
 */
public final class Deduplicate implements Processor<byte[], byte[], byte[], byte[]> {
  private static final String STORE = "seen";
  private static final byte[] SEEN = {1};

  private final ObjectMapper json = new ObjectMapper();
  private ProcessorContext<byte[], byte[]> context;
  private KeyValueStore<String, byte[]> seen;

  @Override
  public void init(ProcessorContext<byte[], byte[]> context) {
    this.context = context;
    seen = context.getStateStore(STORE);
  }

  @Override
  public void process(Record<byte[], byte[]> record) {
    byte[] value = record.value();
    ByteArrayOutputStream fresh = new ByteArrayOutputStream(value.length);
    int start = 0;
    while (start < value.length) {
      int end = start;
      while (end < value.length && value[end] != '\n') {
        end++;
      }
      if (seen.putIfAbsent(identity(value, start, end), SEEN) == null) {
        if (fresh.size() > 0) {
          fresh.write('\n');
        }
        fresh.write(value, start, end - start);
      }
      start = end + 1;
    }
    if (fresh.size() > 0) {
      context.forward(record.withValue(fresh.toByteArray()));
    }
  }

  private String identity(byte[] value, int start, int end) {
    try {
      return json.readTree(value, start, end - start).get("id").textValue();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  public static void main(String[] arguments) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("APP_BOOTSTRAP"));
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("APP_NAME"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("APP_FOLDER"));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);

    Topology topology = new Topology();
    topology.addSource(
        "source", new ByteArrayDeserializer(), new ByteArrayDeserializer(), System.getenv("APP_SOURCE"));
    topology.addProcessor("deduplicate", Deduplicate::new, "source");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray()),
        "deduplicate");
    topology.addSink(
        "target",
        System.getenv("APP_TARGET"),
        new ByteArraySerializer(),
        new ByteArraySerializer(),
        "deduplicate");

    KafkaStreams streams = new KafkaStreams(topology, settings);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
    streams.start();
  }
}
