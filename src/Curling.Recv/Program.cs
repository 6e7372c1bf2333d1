using Curling.Hosting.Options;
using Curling.Recv;

return await CommandRunner.RunAsync(ReceiverCommands.Build(), "curling-recv", args);
