-- lua/hello.lua: the ClientHello of a tunnel.
local hello = require "hello"
local MORE, PASS, REFUSE = 1, 2, 3

local function is(got, want, what)
  if got ~= want then error(("%s: got %s, wanted %s"):format(what or "?", tostring(got), tostring(want)), 2) end
end

local function extension(kind, data) return (">I2s2"):pack(kind, data) end
local function names(...)
  local list = ""
  for _, name in ipairs { ... } do list = list .. (">Bs2"):pack(0, name) end
  return extension(0, (">s2"):pack(list))
end

-- RFC 8446 4.1.2. extensions: nil for a hello without any.
local function message(extensions)
  local body = "\3\3" .. ("r"):rep(32) .. (">s1"):pack(("s"):rep(32)) .. (">s2"):pack("\x13\x01\xc0\x2b") .. (">s1"):pack("\0")
    .. (extensions and (">s2"):pack(extensions) or "")
  return (">Bs3"):pack(1, body)
end

local function record(text) return "\22\3\1" .. (">s2"):pack(text) end
local OTHER = extension(10, "\0\2\0\29")
local GOOD = record(message(OTHER .. names("api.test") .. extension(0xfe0d, "\0inner")))

return {
  ["a hello that names the host passes, and every part of one waits"] = function()
    is(hello.judge(GOOD, "api.test"), PASS)
    is(hello.judge(GOOD .. "\20\3\3\0\1\1", "api.test"), PASS, "what comes behind it is not looked at")
    for n = 1, #GOOD - 1 do is(hello.judge(GOOD:sub(1, n), "api.test"), MORE, n) end
    is(hello.judge(record(message(names("API.Test"))), "api.test"), PASS)
  end,
  ["it may come over any number of records"] = function()
    local text = message(OTHER .. names("api.test"))
    for cut = 1, #text - 1 do
      local two = record(text:sub(1, cut)) .. record(text:sub(cut + 1))
      is(hello.judge(two, "api.test"), PASS, cut)
      is(hello.judge(two, "other.test"), REFUSE, cut)
    end
    is(hello.judge((text:gsub(".", record)), "api.test"), PASS)
  end,
  ["another name, two, none, and what is no hello are refused"] = function()
    for what, extensions in pairs { other = names("evil.test"), longer = names("api.test.evil.test"), two = names("api.test", "evil.test"),
      twice = names("api.test") .. names("evil.test"), empty = names(""), no_list = extension(0, ""), zero = names("api.test\0"),
      dot = names("api.test."), kind = extension(0, (">s2"):pack((">Bs2"):pack(1, "api.test"))), none = OTHER } do
      is(hello.judge(record(message(extensions)), "api.test"), REFUSE, what)
    end
    is(hello.judge(record(message(nil)), "api.test"), REFUSE)
    for _, bytes in ipairs { "GET / HTTP/1.1\r\n", "SSH-2.0-x", "\22\2", "\22\3\1\0\0", "\22\3\1\64\1x", record("\2\0\0\0"), record("\1\0\0\0") } do
      is(hello.judge(bytes, "api.test"), REFUSE, bytes)
    end
    is(hello.judge(record("\1\0\255\255" .. ("x"):rep(16000)):rep(3), "api.test"), REFUSE, "longer than any")
  end,
  ["to an address nobody is named"] = function()
    is(hello.judge(record(message(OTHER)), "192.0.2.1"), PASS)
    is(hello.judge(record(message(nil)), "2001:db8::1"), PASS)
    is(hello.judge(GOOD, "192.0.2.1"), REFUSE)
  end,
  ["a byte changed is a hello that names the host, or is refused, or waits: never a fault"] = function()
    for at = 1, #GOOD do
      for _, byte in ipairs { "\0", "\1", "\127", "\255" } do
        local said = hello.judge(GOOD:sub(1, at - 1) .. byte .. GOOD:sub(at + 1), "api.test")
        assert(said == MORE or said == PASS or said == REFUSE, said)
      end
    end
  end,
}
