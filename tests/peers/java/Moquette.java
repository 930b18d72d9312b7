import io.moquette.broker.Server;
import io.moquette.broker.config.MemoryConfig;
import java.util.Properties;

/** Moquette on a port, with its data in a folder: Moquette PORT FOLDER. */
public class Moquette {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.setProperty("host", "127.0.0.1");
        settings.setProperty("port", arguments[0]);
        settings.setProperty("allow_anonymous", "true");
        settings.setProperty("data_path", arguments[1]);
        settings.setProperty("persistence_enabled", "true");
        settings.setProperty("telemetry_enabled", "false");
        new Server().startServer(new MemoryConfig(settings));
        Thread.currentThread().join();
    }
}
