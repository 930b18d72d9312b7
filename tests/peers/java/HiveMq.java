import com.hivemq.embedded.EmbeddedHiveMQ;
import java.nio.file.Files;
import java.nio.file.Path;

/** HiveMQ CE on a port, with its data in a folder: HiveMq PORT FOLDER. */
public class HiveMq {
    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[1]);
        for (String name : new String[] {"conf", "data", "extensions"}) {
            Files.createDirectories(folder.resolve(name));
        }
        Files.writeString(folder.resolve("conf/config.xml"),
            "<hivemq><listeners><tcp-listener><port>" + arguments[0] + "</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>"
                + "<anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics></hivemq>");
        EmbeddedHiveMQ.builder()
            .withConfigurationFolder(folder.resolve("conf"))
            .withDataFolder(folder.resolve("data"))
            .withExtensionsFolder(folder.resolve("extensions"))
            .build().start().join();
    }
}
