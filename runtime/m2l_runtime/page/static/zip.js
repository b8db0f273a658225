// Pack files into a zip without compressing them (PKWARE APPNOTE 6.3.3): images are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let word = byte;
  for (let bit = 0; bit < 8; bit++) word = word & 1 ? 0xedb88320 ^ (word >>> 1) : word >>> 1;
  return word;
});

/** Compute the CRC-32 of bytes (ISO 3309), as zip and PNG use it. */
export function crc32(bytes) {
  let word = 0xffffffff;
  for (const byte of bytes) word = TABLE[(word ^ byte) & 255] ^ (word >>> 8);
  return (word ^ 0xffffffff) >>> 0;
}

/** Join byte arrays. */
export function join(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function record(signature, shorts) {
  const bytes = new DataView(new ArrayBuffer(4 + shorts.reduce((sum, [size]) => sum + size, 0)));
  bytes.setUint32(0, signature, true);
  let at = 4;
  for (const [size, value] of shorts) {
    if (size === 2) bytes.setUint16(at, value, true);
    else bytes.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(bytes.buffer);
}

/** Pack `files`, [name, Uint8Array] each, into a zip. Times are the lowest: equal files give equal zips. */
export function zip(files) {
  const [local, central] = [[], []];
  let at = 0;
  for (const [name, content] of files) {
    const encoded = new TextEncoder().encode(name);
    // version 2.0, names are UTF-8, stored, 1980-01-01
    const common = [
      [2, 20],
      [2, 0x0800],
      [2, 0],
      [2, 0],
      [2, 0x21],
      [4, crc32(content)],
      [4, content.length],
      [4, content.length],
      [2, encoded.length],
      [2, 0],
    ];
    local.push(record(0x04034b50, common), encoded, content);
    central.push(record(0x02014b50, [[2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]]), encoded);
    at += 30 + encoded.length + content.length;
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const end = record(0x06054b50, [
    [2, 0],
    [2, 0],
    [2, files.length],
    [2, files.length],
    [4, size],
    [4, at],
    [2, 0],
  ]);
  return join([...local, ...central, end]);
}
