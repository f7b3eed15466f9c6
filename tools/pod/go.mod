module kubevision.io/tools/pod

go 1.26.0
