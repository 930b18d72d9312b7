/* The floor of the broker bench: a relay that only moves bytes. One thread, epoll, one read and one
 * write per connection and turn; every PUBLISH goes to everybody who has subscribed to anything.
 * Nothing is checked, stored or bounded: no broker can cost less.
 *
 *   cc -O2 -o floor benches/floor.c && ./floor PORT
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 4096, ROOM = 1 << 20 };

struct client { unsigned char *in, *out; size_t in_len, out_len; };
static struct client clients[CLIENTS];
static int subscribers[CLIENTS], subscriber_count, woken[CLIENTS], woken_count;

static void put(int fd, const unsigned char *bytes, size_t length) {
  struct client *client = &clients[fd];
  if (client->out_len + length > ROOM) abort();
  if (client->out_len == 0) woken[woken_count++] = fd;
  memcpy(client->out + client->out_len, bytes, length);
  client->out_len += length;
}

/* Packets of the bench are shorter than 128 bytes. */
static void packet(int fd, const unsigned char *bytes, size_t length) {
  unsigned char ack[5] = {0, 2, 0, 0, 0};
  switch (bytes[0] >> 4) {
  case 1: ack[0] = 0x20; put(fd, ack, 4); break;
  case 3:
    for (int i = 0; i < subscriber_count; i++) put(subscribers[i], bytes, length);
    if (bytes[0] & 6) {
      const unsigned char *id = bytes + 4 + (bytes[2] << 8 | bytes[3]);
      ack[0] = 0x40; ack[2] = id[0]; ack[3] = id[1]; put(fd, ack, 4);
    }
    break;
  case 8:
    subscribers[subscriber_count++] = fd;
    ack[0] = 0x90; ack[1] = 3; ack[2] = bytes[2]; ack[3] = bytes[3]; ack[4] = bytes[length - 1];
    put(fd, ack, 5);
  }
}

static void receive(int epoll, int fd) {
  struct client *client = &clients[fd];
  ssize_t count = read(fd, client->in + client->in_len, ROOM - client->in_len);
  if (count <= 0) { epoll_ctl(epoll, EPOLL_CTL_DEL, fd, 0); return; }
  client->in_len += count;
  size_t at = 0;
  while (client->in_len - at >= 2 && client->in_len - at >= 2u + client->in[at + 1]) {
    packet(fd, client->in + at, 2u + client->in[at + 1]);
    at += 2u + client->in[at + 1];
  }
  memmove(client->in, client->in + at, client->in_len -= at);
}

int main(int argc, char **argv) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
  if (argc != 2) return 2;
  address.sin_port = htons(atoi(argv[1]));
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) return 1;
  struct epoll_event events[256], event = {.events = EPOLLIN, .data.fd = listener};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd != listener) { receive(epoll, fd); continue; }
      fd = accept(listener, 0, 0);
      if (fd < 0 || fd >= CLIENTS) return 1;
      clients[fd] = (struct client){malloc(ROOM), malloc(ROOM), 0, 0};
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      event.data.fd = fd;
      epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    /* The bench reads everything: a write that blocks waits for it. */
    while (woken_count > 0) {
      struct client *client = &clients[woken[--woken_count]];
      for (size_t at = 0; at < client->out_len;) {
        ssize_t written = write(woken[woken_count], client->out + at, client->out_len - at);
        if (written <= 0) break;
        at += written;
      }
      client->out_len = 0;
    }
  }
}
