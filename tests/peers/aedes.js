// The broker aedes with its sessions on disk: node aedes.js PORT FOLDER
const { createServer } = require("net");
const { Level } = require("level");
const persistence = require("aedes-persistence-level");
const aedes = require("aedes");

const [port, folder] = process.argv.slice(2);
const broker = aedes({ persistence: persistence(new Level(folder)) });
createServer(broker.handle).listen(Number(port), "127.0.0.1");
