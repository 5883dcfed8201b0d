--- sallyport lua --store tests/bench/many.lua N: N further credentials like the one named "www", each for a host of its own.
local store = require "store"
local count = tonumber((...))
local model = assert(store.get("credential", "www"))
local ops = {}
for i = 1, count do
  local plain = {}
  for k, v in pairs(model) do
    if k ~= "secrets" and k ~= "version" then plain[k] = v end
  end
  plain.name, plain.hosts, plain.order = "many" .. i, { "host" .. i .. ".test" }, i
  ops[#ops + 1] = { op = "put", db = "credential", key = plain.name, plain = plain, secrets = model.secrets }
  if #ops == 500 or i == count then
    assert(store.commit(ops, require("time").now() + 20000))
    ops = {}
  end
end
