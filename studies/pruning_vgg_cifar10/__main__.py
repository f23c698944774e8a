from studies.pruning_vgg_cifar10.study import main

main()
